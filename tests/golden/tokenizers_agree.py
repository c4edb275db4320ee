# SPDX-License-Identifier: MIT
"""Our encoder and Hugging Face's on many random texts, and on files that we have written.

usage: python3 tokenizers_agree.py ENCODE_LINES TEXTS TOKENIZER_JSON...

ENCODE_LINES is the program of encode_lines.cpp, TEXTS how many texts each tokenizer gets. The library encodes with
the file and with the copy that our writer made of it. Needs tokenizers.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

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


def agree(program, path, copy, count):
    words = Tokenizer.from_file(path)
    chance = random.Random(len(path))
    names = [token.content for token in words.get_added_tokens_decoder().values()] or ["<s>"]
    texts = [random_text(chance, names) for _ in range(count)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    output = subprocess.run([program, path, copy], input=lines, capture_output=True, text=True, check=True).stdout
    ours = [json.loads(line) for line in output.splitlines()]
    theirs = [encoding.ids for encoding in words.encode_batch(texts)]
    copied = Tokenizer.from_file(copy)
    same_vocabulary = copied.get_vocab() == words.get_vocab()
    again = [encoding.ids for encoding in copied.encode_batch(texts)]
    wrong = [i for i in range(count) if not ours[i] == theirs[i] == again[i]]
    print(f"{path}: {count} texts, {sum(map(len, theirs))} tokens, {len(wrong)} texts with other ids")
    for i in wrong[:3]:
        print("  ", ascii(texts[i]), theirs[i], ours[i], again[i])
    return same_vocabulary and not wrong


def main(program, count, files):
    with tempfile.TemporaryDirectory() as folder:
        bad = [path for path in files if not agree(program, path, os.path.join(folder, "copy.json"), count)]
    if bad:
        sys.exit("other ids or another vocabulary: " + ", ".join(bad))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
