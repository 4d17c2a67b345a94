"""A tokenizer of letters: [CLS] is 1, [SEP] is 2; white space is left out, as most tokenizers do."""

import numpy as np


class Letters:
    unk_id = 3

    def encode_batch(self, texts):
        return [ids for ids, _ in self.encode_with_offsets(texts)]

    def encode_with_offsets(self, texts):
        letters = [[(ord(letter), i) for i, letter in enumerate(text) if not letter.isspace()] for text in texts]
        return [([id for id, _ in row], np.array([(i, i + 1) for _, i in row]).reshape(-1, 2)) for row in letters]

    def pair_ids(self, a, b, max_length):
        ids, types = [1, *a, 2], [0] * (len(a) + 2)
        if b is not None:
            ids, types = [*ids, *b, 2], types + [1] * (len(b) + 1)
        return np.array(ids[:max_length]), np.array(types[:max_length])
