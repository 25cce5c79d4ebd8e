"""Writes tiny.gguf: one tensor of each supported type, of numbers that tests/weights.rs knows. Run with the `gguf` package."""

import numpy as np
import gguf

numbers = np.sin(np.arange(64, dtype=np.float64)).astype(np.float32).reshape(2, 32)
writer = gguf.GGUFWriter("tiny.gguf", "llama")
writer.add_string("general.name", "tiny")
writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
writer.add_float32("some.number", 0.5)
writer.add_tensor("single", numbers)
writer.add_tensor("half", numbers.astype(np.float16))
writer.add_tensor("quantized", gguf.quants.quantize(numbers, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(gguf.quants.dequantize(gguf.GGUFReader("tiny.gguf").tensors[2].data, gguf.GGMLQuantizationType.Q8_0)[1, :4].tolist())
