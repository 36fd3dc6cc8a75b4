"""Limits on what is read from files: sizes, counts and depths beyond which a file is refused before any work is done.

Each is several times what the largest published model needs, which its docstring names; a file beyond one is damaged or
hostile. To read it anyway, raise the limit before loading: ``transferlab.limits.TENSORS = 4_000_000``.
"""

MEGABYTE = 1 << 20

JSON_BYTES = 64 * MEGABYTE
"""Of a config, index or settings file. The index of a model of 1T parameters in 140 000 tensors is 14 MB."""
VOCABULARY_BYTES = 512 * MEGABYTE
"""Of ``tokenizer.json``, ``vocab.json``, ``vocab.txt``, ``merges.txt``. Gemma 3's, with 262 144 tokens, is 33 MB."""
SENTENCEPIECE_BYTES = 64 * MEGABYTE
"""Of a SentencePiece model. mT5's, with 250 000 pieces, is 4 MB."""
TABLE_BYTES = 8 << 30
"""Of a table of texts, which is read whole. Amazon's 3.6 million reviews are 1.6 GB."""
IMAGE_BYTES = 4 << 30
"""Of an image's file. One with as many pixels as Pillow opens is 1.4 GB at 16 bits a channel."""
HEADER_BYTES = 100_000_000
"""Of a safetensors header; the format's own limit."""
TENSORS = 400_000
"""In one file or directory. A mixture of 384 experts in 61 layers has 140 000."""
AXES = 32
"""Of one tensor; numpy 1's own limit."""
SIDE = 1 << 48
"""Length of an axis, and elements of a tensor: products of such lengths stay exact and fast."""
NAME_CHARACTERS = 1024
"""Of a tensor's name or a metadata key. Names of adapters of deep mixtures have 150."""
LAYERS = 2048
"""That a config may ask for. ResNet-1202 is the deepest model known by its depth; language models have up to 126."""
PICKLE_BYTES = 32 * MEGABYTE
"""Of the pickle in a torch file, its tensors' data not counted: 100 000 tensors take 20 MB."""
PICKLE_TUPLE = 100_000
"""Items of a tuple in a pickle, those of nested tuples counted as often as they occur."""
PICKLE_INTEGER_BYTES = 64
"""Of one integer in a pickle; torch's magic number has 10."""
ZIP_MEMBERS = 400_000
"""Files in a zip archive: an ``.npz``, a torch file."""
GGUF_ITEMS = 8_000_000
"""Strings and nested arrays in all metadata of a GGUF file. A vocabulary of 262 144 with its merges has 900 000."""
PIECES = 4_000_000
"""Entries of a SentencePiece vocabulary."""
ADDED_TOKENS = 200_000
"""In ``added_tokens.json`` or ``added_tokens_decoder``. Codebooks of audio and images as tokens have 30 000."""
PATTERNS = 4096
"""In ``rank_pattern`` or ``alpha_pattern`` of an adapter. One for each linear map of 405B's 126 layers makes 882."""
PATTERN_TRIES = 8_000_000
"""Patterns times adapted modules."""
TEXT_GROWTH = 1024
"""By what factor a tokenizer's normalisation may lengthen a text; each replacing rule multiplies in its own."""
SUGGESTIONS = 20_000
"""Names searched for the nearest one to a misspelled name; only the likeliest of them are compared."""
MESSAGE_CHARACTERS = 8000
"""Of one error message."""
