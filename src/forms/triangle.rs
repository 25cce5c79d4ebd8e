//! The time of products of which a triangle is left out: tiles that take unequally long.

/// Tiles of a multiprocessor beyond which their terms even out.
const MANY: usize = 128;

/// Terms at full speed that a multiprocessor takes for tiles of as many terms as given, which start in that order: `speed` is what it reaches
/// with one of them, with two and so on, up to as many as it holds.
pub fn in_turn(terms: &[f64], speed: &[f64]) -> f64 {
    let (mut running, mut time): (Vec<f64>, f64) = (vec![], 0.0);
    let mut waiting = terms.iter().copied();
    loop {
        running.extend(waiting.by_ref().take(speed.len() - running.len()));
        let Some(least) = running.iter().copied().min_by(f64::total_cmp) else { return time };
        // All of them share what is reached.
        time += least * running.len() as f64 / speed[running.len() - 1];
        running.iter_mut().for_each(|left| *left -= least);
        running.retain(|left| *left > 0.0);
    }
}

/// Terms of the tiles that the first of so many multiprocessors gets, of `rows` rows of tiles with `across` in each; a row has `block` terms less
/// than the one before it, and the first has `terms`. None where they are so many that their average serves.
pub fn of_one(processors: f64, [rows, across]: [f64; 2], terms: f64, block: f64) -> Option<Vec<f64>> {
    let count = (rows * across / processors).ceil() as usize;
    let of = |tile: usize| (terms - block * (tile as f64 * processors / across).floor()).max(block);
    (count <= MANY).then(|| (0..count.max(1)).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_share_a_multiprocessor() {
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-9, "{x} is not {y}");
        close(in_turn(&[100.0], &[0.5, 1.0]), 200.0);
        close(in_turn(&[100.0, 100.0], &[0.5, 1.0]), 200.0);
        // Both until the short one ends, then the rest of the other alone.
        close(in_turn(&[100.0, 40.0], &[0.5, 1.0]), 80.0 + 120.0);
        // The third begins where the second ends.
        close(in_turn(&[100.0, 40.0, 60.0], &[0.5, 1.0]), 80.0 + 120.0);
        assert_eq!(of_one(4.0, [4.0, 3.0], 256.0, 64.0), Some(vec![256.0, 192.0, 128.0]));
        assert_eq!(of_one(1.0, [4.0, 100.0], 256.0, 64.0), None);
    }
}
