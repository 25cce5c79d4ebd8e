//! Matrix products in tiles.

use super::plan::Variant;
use super::unit::Unit;

/// The tiled kernel of a matmul nest; `None` where the generic form serves.
pub fn generate(_unit: &Unit) -> Result<Option<Variant>, String> {
    Ok(None)
}
