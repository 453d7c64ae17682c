"""Chat templates in the style of each family's checkpoints, shortened."""

# Joined in Python, because Jinja would keep the line breaks of a template written over several lines.


def _content(image: str, *, images_first: bool = False, separator: str = "") -> str:
    """Jinja that writes one message's content, a list of image and text blocks."""
    picture = f"{{{{ '{image}' }}}}"
    if images_first:
        return (
            "{% for c in message['content'] %}{% if c['type'] == 'image' %}"
            + picture
            + "{% endif %}{% endfor %}"
            "{% for c in message['content'] %}"
            "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
        )
    return (
        "{% for c in message['content'] %}"
        "{% if c['type'] == 'image' %}"
        + picture
        + "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
        + (f"{{% if not loop.last %}}{{{{ '{separator}' }}}}{{% endif %}}" if separator else "")
        + "{% endfor %}"
    )


def _turns(body: str, prompt: str, head: str = "") -> str:
    start = "{% for message in messages %}"
    return (
        f"{head}{start}{body}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '{prompt}' }}}}{{% endif %}}"
    )


def _chatml(image: str, *, system: bool = False, images_first: bool = False) -> str:
    head = "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}" if system else ""
    body = (
        "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        + _content(image, images_first=images_first)
        + "{{ '<|im_end|>\\n' }}"
    )
    return _turns(body, "<|im_start|>assistant\\n", head)


def _utterance(start: str) -> str:
    body = (
        "{{ message['role'] | capitalize }}"
        "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
        + _content("<image>")
        + "{{ '<end_of_utterance>\\n' }}"
    )
    return _turns(body, "Assistant:", start)


LLAVA = _turns(
    "{{ message['role'].upper() + ': ' }}" + _content("<image>\\n", images_first=True) + "{{ ' ' }}",
    "ASSISTANT:",
)
LLAVA_NEXT = _turns("{{ '[INST] ' }}" + _content("<image>\\n", images_first=True) + "{{ ' [/INST]' }}", "")
LLAVA_ONEVISION = _chatml("<image>\\n", images_first=True)
QWEN = _chatml("<|vision_start|><|image_pad|><|vision_end|>", system=True)
QWEN3 = _chatml("<|vision_start|><|image_pad|><|vision_end|>")
INTERNVL = _chatml("<IMG_CONTEXT>\\n")
SMOLVLM = _utterance("{{ '<|im_start|>' }}")
IDEFICS3 = _utterance("{{ '<|begin_of_text|>' }}")
GEMMA3 = _turns(
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    + _content("<start_of_image>")
    + "{{ '<end_of_turn>\\n' }}",
    "<start_of_turn>model\\n",
    "{{ bos_token }}",
)
PALIGEMMA = _turns(_content("<image>", images_first=True), "")
MISTRAL = _turns("{{ '[INST]' }}" + _content("[IMG]") + "{{ '[/INST]' }}", "", "{{ bos_token }}")
