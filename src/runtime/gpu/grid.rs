//! Numbers of workgroups as the grids of dispatches.

use crate::error::Error;

/// Folds a number of workgroups into a grid whose sides stay within `limit`; the product is at least `groups`.
pub(super) fn fold_grid(groups: i64, limit: u32) -> Result<[u32; 3], String> {
    let (groups, limit) = (u64::try_from(groups).map_err(|_| negative("a number of workgroups", groups).to_string())?, limit as u64);
    if groups == 0 {
        return Ok([0, 1, 1]);
    }
    let y = groups.div_ceil(limit);
    if y > limit {
        return Err(format!("{groups} workgroups do not fit a grid of {limit} x {limit}"));
    }
    Ok([groups.div_ceil(y) as u32, y as u32, 1])
}

/// An error about a size that came out negative.
pub(super) fn negative(what: &str, n: i64) -> Error {
    Error::Input(format!("{what} is {n} at these sizes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_at_the_limit() {
        assert_eq!(fold_grid(0, 65535), Ok([0, 1, 1]));
        assert_eq!(fold_grid(65535, 65535), Ok([65535, 1, 1]));
        assert_eq!(fold_grid(65536, 65535), Ok([32768, 2, 1]));
        for groups in [1i64, 65537, 1 << 20, (1 << 31) - 1] {
            let [x, y, _] = fold_grid(groups, 65535).unwrap();
            assert!(x as i64 * y as i64 >= groups && x <= 65535 && y <= 65535);
        }
        assert!(fold_grid(1 << 40, 65535).is_err());
    }
}
