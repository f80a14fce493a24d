"""Writes the small tokenizers of this folder and what the reference implementation makes of many texts.

    pip install tokenizers==0.23.3
    python3 generate.py

Reads ../smollm2/tokenizer.json and ../../../Models/glm5-nano/tokenizer.json; writes one NAME.json per tokenizer trained here,
and goldens.json: for every tokenizer, texts with ids and decoded text.
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog didn't mind; it's what foxes do, they'll say.",
    "In the beginning there was a router, a prefill node and a decode node, and the pages went between them.",
    "def main(args):\n    for index, value in enumerate(args):\n        print(f\"{index}: {value}\")\n    return 0\n",
    "Numbers such as 1, 22, 333, 4444, 1234567 and 3.14159 are split in groups of three digits or fewer.",
    "Der schnelle braune Fuchs springt über den faulen Hund. Straße, Größe, Äpfel, Öl, Übung.",
    "Le cœur a ses raisons que la raison ne connaît point. Déjà vu, garçon, naïve, façade.",
    "Быстрая коричневая лиса прыгает через ленивую собаку. Привет, мир!",
    "快速的棕色狐狸跳过了懒狗。今天天气很好,我们去公园吧。",
    "素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがな。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다. 안녕하세요 세계.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم",
    "नमस्ते दुनिया। तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 3}}\n\n\n<html><body></body></html>",
] * 3

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
]
SPECIAL = ["<|begin|>", "<|end|>", "<｜User｜>", "<think>"]


def byte_level(patterns, normalizer=None, **bpe):
    tokenizer = Tokenizer(models.BPE(**bpe))
    if normalizer:
        tokenizer.normalizer = normalizer
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL[:2], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(SPECIAL[2], special=True)])
    tokenizer.add_tokens([AddedToken(SPECIAL[3], normalized=False)])
    return tokenizer


def llama3():
    tokenizer = byte_level([LLAMA3], ignore_merges=True)
    begin = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], begin)]),
    ])
    return tokenizer


def gpt2():
    tokenizer = byte_level([GPT2])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
    ])
    return tokenizer


def added():
    """Added tokens with every flag."""
    tokenizer = byte_level([QWEN2], normalizers.Lowercase())
    tokenizer.add_special_tokens([
        AddedToken("<mask>", lstrip=True, special=True), AddedToken("<sep>", rstrip=True, special=True),
        AddedToken("<<a", special=True), AddedToken("<<ab>>", special=True)])
    tokenizer.add_tokens([
        AddedToken("cat", single_word=True, normalized=False), AddedToken("HELLO", normalized=True),
        AddedToken("World", normalized=False)])
    return tokenizer


def llama2():
    """SentencePiece style: no pre-tokenizer, whole texts as one word, bytes for unknown characters."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokenizer.train_from_iterator(
        CORPUS[:6], trainers.BpeTrainer(vocab_size=800, special_tokens=names, show_progress=False))
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = file["added_tokens"][:3]
    file["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.train_from_iterator(
        CORPUS[:6], trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>"], show_progress=False))
    return tokenizer


WORDS = (
    "the quick Brown FOX didn't IT'S they'LL we've I'm you'd O'Neil 'sample don''t "
    "über Straße naïve façade cœur ÄÖÜ привет МИР Ελλάδα ΣΊΣΥΦΟΣ 快速的狐狸 こんにちは カタカナ 한국어 안녕 مرحبا بالعالم שלום "
    "नमस्ते ไทย ქართული ʰello ﬁne ½ ² Ⅻ ٣٤ 12 123 1234 12345678 3.14 1,000 a1b2 x_y __init__ camelCase HTTPServer "
    "e\u0301 \u0041\u030a n\u0303o \u1e9b\u0323 \u212b \u2126 가 \u1112\u1161\u11ab 'ſ \u212a 👩‍👩‍👧 🇫🇷 😀 👍🏽 ☃ € £ ∑ → … — “quoted” ‘it’ "
    "() {} [] == != <= >> && || // /* */ # $ % ^ ~ ` @ \\ \\n <html> </p> http://example.com/a?b=c&d=e "
    "<|begin|> <|end|> <｜User｜> <think> <|begin <mask> <sep> <<a <<ab>> <<abc cat cats cat. HELLO hello Hello World "
    "<|im_start|> <|im_end|> [gMASK] <sop> <|user|> ▁ ▁▁a Ġ Ċ <0x0A> <unk> <s> </s>").split(" ")
SPACES = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085",
          "\u200b", "", "", "\x00", "\x7f", "\ufeff"]


def texts():
    source = random.Random(7)
    result = ["", " ", "  ", "\n", "a", " a", "Hello, world!", " leading and trailing ", "    indented\n\tcode\n\n\nend"]
    result += ["a" * 300, " " * 200 + "x", "\n" * 100, "ab" * 150, "1" * 100, "é" * 100, "日" * 100, "!" * 100, "😀" * 40]
    for _ in range(170):
        parts = []
        for _ in range(source.randint(1, 14)):
            parts.append(source.choice(WORDS))
            parts.append(source.choice(SPACES))
        result.append("".join(parts))
    blocks = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x905, 0x939),
              (0x2010, 0x2027), (0x2190, 0x21FF), (0x3041, 0x3096), (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0x1F600, 0x1F64F)]
    for _ in range(60):
        characters = []
        for _ in range(source.randint(5, 60)):
            low, high = source.choice(blocks)
            characters.append(chr(source.randint(low, high)))
        result.append("".join(characters))
    return result


def main():
    made = {
        "gpt2-digits": gpt2(), "llama3": llama3(), "qwen2": byte_level([QWEN2], normalizers.NFC()),
        "deepseek": byte_level(DEEPSEEK), "o200k": byte_level([O200K]), "added": added(), "llama2": llama2(),
        "metaspace": metaspace(),
    }
    paths = {"smollm2": HERE / "../smollm2/tokenizer.json", "glm5-nano": HERE / "../../../Models/glm5-nano/tokenizer.json"}
    for name, tokenizer in made.items():
        paths[name] = HERE / f"{name}.json"
        paths[name].write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
    goldens = {"texts": texts(), "tokenizers": {}}
    for name, path in paths.items():
        tokenizer = Tokenizer.from_file(str(path))
        rows = []
        for text in goldens["texts"]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            framed = tokenizer.encode(text, add_special_tokens=True).ids
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = False
            row = {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)}
            if framed != ids:
                row["framed"] = framed
            if plain != ids:
                row["plain"] = plain
            rows.append(row)
        goldens["tokenizers"][name] = rows
    (HERE / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, separators=(",", ":")))


main()
