//! Patterns of names.

/// Whether a parameter's name fits a pattern: the name itself, the path of a module, which stands for everything below it, or
/// either with `*` for any characters.
///
/// ```
/// use inductor::types::matches_pattern;
/// assert!(matches_pattern("encoder", "encoder.0.weight") && matches_pattern("encoder.0.weight", "encoder.0.weight"));
/// assert!(!matches_pattern("encoder", "encoders.0.weight") && !matches_pattern("0.weight", "encoder.0.weight"));
/// assert!(matches_pattern("*.bias", "encoder.0.bias") && matches_pattern("*.norm*", "blocks.3.norm1.weight"));
/// ```
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let is_end = |at: usize| at == name.len() || name.as_bytes()[at] == b'.';
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return is_end(name.len() - rest.len()) };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    let start = name.len() - rest.len();
    rest.match_indices(last).any(|(at, _)| is_end(start + at + last.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, fits) in [
            ("*", "a.b", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "a.b", true),
            ("a", "ab", false),
            ("a*", "ab.c", true),
            ("*a", "b.a", true),
            ("*a", "b.a.c", true),
            ("*a", "b.ac", false),
            ("*a*b", "a.b.b", true),
            ("*.b*.c", "a.b1.c", true),
            ("*.b*.c", "a.c.b1", false),
            ("a*a", "a", false),
            ("x*y*z", "x.yy.z.w", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), fits, "{pattern} {name}");
        }
    }
}
