# SPDX-License-Identifier: MIT
"""Our encoder and Hugging Face's, one thread each, on the same texts in one run.

usage: python3 tokenizers_encode.py BENCH.TEXT.TOKENIZER FOLDER... [--vocab N] [--megabytes N]

Trains a tokenizer in DeepSeek-V3's layout (N tokens, 32000 unless told) on the text files under the folders, then
encodes three texts of N megabytes (12 unless told): those files, generated text in many scripts, and generated words
that hardly ever repeat. Rates are of `encode` on parts of 64 KiB; also the library's `encode_batch_fast`, which leaves
offsets out. Needs tokenizers.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden"))
from make_tokenizers import DEEPSEEK, SYLLABLES, byte_level, split  # noqa: E402

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402


def files_under(folders):
    for folder in folders:
        for place, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                try:
                    with open(os.path.join(place, name), encoding="utf-8") as file:
                        text = file.read()
                except (UnicodeDecodeError, OSError):
                    continue
                if "\0" not in text:
                    yield text


def repeated(texts, size):
    whole = "\n".join(texts)
    return (whole * (size // len(whole.encode()) + 1)).encode()[:size].decode("utf-8", "ignore")


def many_scripts(size):
    chance = random.Random(3)
    words = {
        script: ["".join(chance.choice(parts) for _ in range(chance.randint(1, 4))) for _ in range(3000)]
        for script, parts in SYLLABLES.items()
    }
    lines, length = [], 0
    while length < size:
        script = chance.choice(list(words))
        line = ("" if script in ("han", "kana", "thai") else " ").join(chance.choices(words[script], k=12))
        lines.append(line + chance.choice([". ", "! ", ", 2024 ", " 😀\n", "\n\n"]))
        length += len(lines[-1].encode())
    return "".join(lines)


def rare_words(size):
    chance = random.Random(4)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    lines, length = [], 0
    while length < size:
        lines.append(" ".join("".join(chance.choices(letters, k=chance.randint(4, 12))) for _ in range(12)) + ".\n")
        length += len(lines[-1])
    return "".join(lines)


def trained(texts, vocab, path):
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [split(Regex(pattern)) for pattern in DEEPSEEK] + [byte_level(False, False)]
    )
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(texts, trainer)
    words.save(path)
    return words.get_vocab_size()


def parts_of(text, bytes_each=1 << 16):
    """As our benchmark cuts it."""
    rest, parts = text.encode(), []
    while rest:
        end = rest.find(b"\n", min(bytes_each, len(rest))) + 1 or len(rest)
        parts.append(rest[:end].decode())
        rest = rest[end:]
    return parts


def library_rate(path, text, method):
    parts = parts_of(text)
    words = Tokenizer.from_file(path)  # its cache is cold
    begin = time.process_time()  # as our benchmark does: other programs' time does not count
    tokens = sum(len(encoding) for encoding in method(words, parts))
    return len(text.encode()) / (time.process_time() - begin) / 1e6, tokens


def our_rate(program, path, text_path):
    environment = dict(os.environ, DSV3_TOKENIZER=path, DSV3_TEXT=text_path, OMP_NUM_THREADS="1")
    report = subprocess.run(
        [program, "--benchmark_filter=^encode/bytes:65536", "--benchmark_min_time=0.01", "--benchmark_format=json"],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout
    found = json.loads(report)["benchmarks"][0]
    return found["bytes_per_second"] / 1e6, int(found["tokens"])


def main():
    options = argparse.ArgumentParser(usage=__doc__)
    options.add_argument("program")
    options.add_argument("folders", nargs="+")
    options.add_argument("--vocab", type=int, default=32000)
    options.add_argument("--megabytes", type=int, default=12)
    given = options.parse_args()
    size = given.megabytes * 1_000_000
    own = list(files_under(given.folders))
    texts = {"files": repeated(own, size), "many scripts": many_scripts(size), "rare words": rare_words(size)}
    with tempfile.TemporaryDirectory() as folder:
        path, text_path = os.path.join(folder, "tokenizer.json"), os.path.join(folder, "text")
        print("vocabulary", trained(own + [texts["many scripts"][:2_000_000]], given.vocab, path))
        for name, text in texts.items():
            with open(text_path, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            one, tokens = library_rate(path, text, lambda words, parts: map(words.encode, parts))
            batch, _ = library_rate(path, text, lambda words, parts: words.encode_batch_fast(parts))
            ours, our_tokens = our_rate(given.program, path, text_path)
            print(
                f"{name}: {ours:.1f} MB/s, library encode {one:.2f} ({ours / one:.1f} times), "
                f"encode_batch_fast {batch:.2f} ({ours / batch:.1f} times), {our_tokens} and {tokens} tokens"
            )


if __name__ == "__main__":
    main()
