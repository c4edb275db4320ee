# SPDX-License-Identifier: MIT
"""Our encoder and Hugging Face's on many random texts, and on files that we have written.

usage: python3 tokenizers_agree.py ENCODE_LINES TEXTS TOKENIZER_JSON...

ENCODE_LINES is the program of encode_lines.cpp, TEXTS how many texts each tokenizer gets. Needs tokenizers.
"""
import json
import random
import subprocess
import sys

from tokenizers import Tokenizer

SCRIPTS = [
    (0, 0x80, 30), (0x80, 0x250, 6), (0x300, 0x370, 2), (0x370, 0x530, 4), (0x590, 0x780, 3), (0x900, 0xE80, 3),
    (0x1680, 0x1800, 1), (0x2000, 0x2070, 4), (0x2070, 0x2800, 2), (0x3000, 0x3100, 4), (0x4E00, 0xA000, 4),
    (0xAC00, 0xD7A4, 2), (0xE000, 0xFFFF, 1), (0x10000, 0x20000, 2), (0x1F000, 0x1FB00, 4), (0, 0x110000, 2),
]


def random_text(chance, names):
    kind = chance.random()
    length = int(2 ** chance.uniform(0, 9))
    if kind < 0.15:  # random bytes
        return chance.randbytes(length).decode("utf-8", "replace")
    if kind < 0.25:
        return "".join(chance.choice(" \n\r\t\u00a0\u3000\u0085x'.1") for _ in range(length))
    scripts = chance.choices(SCRIPTS, [weight for _, _, weight in SCRIPTS], k=chance.randint(1, 4))
    parts = []
    while len(parts) < length:
        low, high, _ = chance.choice(scripts)
        draw = chance.random()
        if draw < 0.06:
            parts.append(chance.choice(names))
        elif draw < 0.25:
            parts.append(chance.choice([" ", " ", " ", "\n", "'s", "'LL", "12", "the", "…", "  "]))
        else:
            code = chance.randrange(low, high)
            parts.append("" if 0xD800 <= code < 0xE000 else chr(code) * (1 if chance.random() < 0.95 else 20))
    return "".join(parts)


def main(program, count, files):
    failures = 0
    for path in files:
        words = Tokenizer.from_file(path)
        chance = random.Random(len(path))
        names = [token.content for token in words.get_added_tokens_decoder().values()] or ["<s>"]
        texts = [random_text(chance, names) for _ in range(int(count))]
        lines = "".join(json.dumps(text) + "\n" for text in texts)
        ours = subprocess.run([program, path], input=lines, capture_output=True, text=True, check=True).stdout
        ours = [json.loads(line) for line in ours.splitlines()]
        theirs = [encoding.ids for encoding in words.encode_batch(texts, add_special_tokens=False)]
        wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        tokens = sum(map(len, theirs))
        print(f"{path}: {len(texts)} texts, {tokens} tokens, {len(wrong)} texts with other ids")
        for i in wrong[:3]:
            print("  ", ascii(texts[i]), theirs[i], ours[i])
        failures += len(wrong)
    if failures:
        sys.exit(f"{failures} texts have other ids")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
