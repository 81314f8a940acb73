"""Text that tries to break out of wherever it is shown."""

ESCAPES = {
    "clears the screen": "\x1b[2J",
    "renames the window": "\x1b]0;owned\x07",
    "fills the clipboard": "\x1b]52;c;b3duZWQ=\x1b\\",
    "C1 control": "\x9b31m",
    "goes back": "real\rfake\x08",
    "right to left": "\u202egpj.exe\u2066",
    "half a pair": "\udc1b",
    "markup": "[bold red]x[/bold red] [link=https://evil.example]y[/link] :smile:",
}
UNSAFE = "\x1b\x07\x08\x0b\x0c\r\x7f\x9b\u202e\u2066\u2028\udc1b"
"""Characters of them that no terminal may see."""

MARKUP = [
    "<script>window.hurt = 1</script>",
    "</script><script>window.hurt = 1</script>",
    "</title></style></textarea>--><img src=x onerror=window.hurt=1>",
    '" onmouseover="window.hurt=1" style="background: url(https://evil.example/x)" x="',
    "{{ 7 * 7 }} {% raw %} ${7*7} &lt;b&gt; javascript:window.hurt=1",
    "| cell | [link](javascript:1) ![picture](https://evil.example/x) <https://evil.example>",
    "` code ``` fence\n\n# heading\n\n| a |\n|---|\n",
]
