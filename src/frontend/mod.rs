//! `Tensor` handles that record a graph; `nn`; `optim`; `torch_export`.
