//! Passes over graphs: pre-grad, joint, post-grad.
