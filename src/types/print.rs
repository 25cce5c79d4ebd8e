//! Tensors as text, as NumPy prints them.

use super::HostTensor;
use std::fmt;

/// Larger tensors show [`EDGE`] elements at each end of a dimension.
const WHOLE: usize = 1000;
const EDGE: usize = 3;
/// Rows are broken behind so many characters.
const WIDTH: usize = 75;
/// Digits behind the point.
const DIGITS: usize = 8;

/// As NumPy's `str`: aligned columns, eight digits, scientific where magnitudes are far apart. A precision rounds first: `{:.3}`.
impl fmt::Display for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault() {
            Some(fault) => write!(f, "<{fault}>"),
            None => f.write_str(&f.precision().map_or_else(|| text(self), |digits| text(&self.rounded(digits)))),
        }
    }
}

/// Type and first elements, on one line.
impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fault) = self.fault() {
            return write!(f, "<{fault}>");
        }
        let shown: Vec<String> = (0..self.numel().min(2 * EDGE)).map(|i| self.element(i).trim().to_string()).collect();
        let more = if self.numel() > 2 * EDGE { ", ..." } else { "" };
        write!(f, "{} [{}{more}]", self.ty(), shown.join(", "))
    }
}

impl HostTensor {
    /// Floats with so many digits behind the point.
    fn rounded(&self, digits: usize) -> HostTensor {
        if !self.dtype().is_float() {
            return self.clone();
        }
        let scale = 10f64.powi(digits as i32);
        let values: Vec<f64> = self.to_f64().iter().map(|x| (x * scale).round() / scale).collect();
        HostTensor::from_f64(self.dtype(), self.shape(), &values)
    }

    /// One element, as short as it reads back.
    fn element(&self, i: usize) -> String {
        let size = self.dtype().size();
        let one = HostTensor::from_bytes(self.dtype(), vec![1], self.bytes()[i * size..(i + 1) * size].to_vec()).expect("one element");
        text_of(&one, 0, Style::of(&[]))
    }
}

/// How floats are written.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    Positional,
    Scientific,
}

impl Style {
    /// NumPy's choice: scientific for magnitudes above 1e8, below 1e-4, or more than a thousand times apart.
    fn of(values: &[f64]) -> Style {
        let sizes = || values.iter().map(|x| x.abs()).filter(|x| x.is_finite() && *x > 0.0);
        let (low, high) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
        if high >= 1e8 || (high > 0.0 && (low < 1e-4 || high / low > 1000.0)) { Style::Scientific } else { Style::Positional }
    }
}

fn text(tensor: &HostTensor) -> String {
    let places = visible(tensor.shape());
    let shown = picked(tensor, &places);
    let values = if tensor.dtype().is_float() { shown.to_f64() } else { vec![] };
    let style = Style::of(&values);
    let mut cells: Vec<String> = (0..places.len()).map(|i| text_of(&shown, i, style)).collect();
    if tensor.shape().is_empty() {
        let number = cells.pop().unwrap_or_default();
        return if number.ends_with('.') { number + "0" } else { number.replace(".e", "e") };
    }
    align(&mut cells, tensor.dtype().is_float().then_some(style));
    let mut cells = cells.into_iter();
    let mut out = String::new();
    write_dim(&mut out, tensor.shape(), &mut cells, 1, tensor.numel() > WHOLE);
    out
}

/// Indices of a dimension that are shown; the gap is behind the first `EDGE`.
fn shown_of(n: usize, summarized: bool) -> Vec<usize> {
    if summarized && n > 2 * EDGE { (0..EDGE).chain(n - EDGE..n).collect() } else { (0..n).collect() }
}

/// Row-major places of all elements that are shown.
fn visible(shape: &[usize]) -> Vec<usize> {
    let summarized = shape.iter().product::<usize>() > WHOLE;
    shape.iter().fold(vec![0], |places, &n| {
        let inner = shown_of(n, summarized);
        places.iter().flat_map(|&at| inner.iter().map(move |&i| at * n + i).collect::<Vec<_>>()).collect()
    })
}

fn picked(tensor: &HostTensor, places: &[usize]) -> HostTensor {
    let size = tensor.dtype().size();
    let bytes = places.iter().flat_map(|&at| tensor.bytes()[at * size..(at + 1) * size].iter().copied()).collect();
    HostTensor::from_bytes(tensor.dtype(), vec![places.len()], bytes).expect("as many elements as places")
}

/// Element `i` of a vector.
fn text_of(tensor: &HostTensor, i: usize, style: Style) -> String {
    use super::DType::{Bool, F16, F32};
    match tensor.dtype() {
        Bool => if tensor.bytes()[i] != 0 { "True" } else { "False" }.into(),
        F32 => float(tensor.to_f32()[i].to_string(), tensor.to_f64()[i], style),
        F16 => float(shortest_half(tensor.to_f64()[i]), tensor.to_f64()[i], style),
        dtype if dtype.is_float() => float(tensor.to_f64()[i].to_string(), tensor.to_f64()[i], style),
        _ => tensor.to_i64()[i].to_string(),
    }
}

/// The shortest digits that read back as this half.
fn shortest_half(x: f64) -> String {
    let mut rounded = (0..5).filter_map(|digits| format!("{x:.digits$e}").parse::<f64>().ok());
    rounded.find(|y| half::f16::from_f64(*y).to_f64() == x).unwrap_or(x).to_string()
}

/// A float with a point, in the shortest digits that read back, at most eight behind the point.
fn float(shortest: String, x: f64, style: Style) -> String {
    match (x.is_finite(), style) {
        (false, _) => if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into(),
        (true, Style::Positional) => {
            let digits = shortest.split('.').nth(1).map_or(0, str::len);
            let text = if digits > DIGITS { format!("{x:.DIGITS$}").trim_end_matches('0').to_string() } else { shortest };
            if text.contains('.') { text } else { text + "." }
        }
        (true, Style::Scientific) => {
            let exact: f64 = shortest.parse().unwrap_or(x);
            let text = format!("{exact:e}");
            let digits = text.split(['.', 'e']).nth(1).filter(|_| text.contains('.')).map_or(0, str::len);
            let text = if digits > DIGITS { format!("{exact:.DIGITS$e}") } else { text };
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let point = if mantissa.contains('.') { "" } else { "." };
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}{point}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
    }
}

/// Pads cells to one width: integers on the left, floats around their points.
fn align(cells: &mut [String], floats: Option<Style>) {
    let split = |cell: &str| cell.split_once('.').map_or((cell.len(), 0), |(a, b)| (a.len(), b.len()));
    if floats == Some(Style::Scientific) {
        let digits = |cell: &str| cell.split_once('e').and_then(|(m, _)| m.split_once('.')).map_or(0, |(_, d)| d.len());
        let most = cells.iter().map(|c| digits(c)).max().unwrap_or(0);
        for cell in cells.iter_mut().filter(|c| c.contains('e')) {
            let at = cell.find('e').expect("it is scientific");
            let zeros = "0".repeat(most - digits(cell));
            cell.insert_str(at, &zeros);
        }
    } else if floats.is_some() {
        let most = cells.iter().filter(|c| c.contains('.')).map(|c| split(c).1).max().unwrap_or(0);
        for cell in cells.iter_mut().filter(|c| c.contains('.')) {
            let behind = split(cell).1;
            cell.push_str(&" ".repeat(most - behind));
        }
    }
    let width = cells.iter().map(String::len).max().unwrap_or(0);
    cells.iter_mut().for_each(|cell| *cell = format!("{cell:>width$}"));
}

/// Writes one dimension with brackets; `indent` is the column behind its bracket.
fn write_dim(out: &mut String, shape: &[usize], cells: &mut dyn Iterator<Item = String>, indent: usize, summarized: bool) {
    let n = shape[0];
    out.push('[');
    if shape.len() == 1 {
        write_row(out, n, cells, indent, summarized);
    } else if !shape.contains(&0) {
        let between = format!("{}{}", "\n".repeat(shape.len() - 1), " ".repeat(indent));
        for (k, i) in shown_of(n, summarized).into_iter().enumerate() {
            if k > 0 {
                out.push_str(&between);
            }
            if summarized && n > 2 * EDGE && i == n - EDGE {
                out.push_str("...");
                out.push_str(&between);
            }
            write_dim(out, &shape[1..], cells, indent + 1, summarized);
        }
    }
    out.push(']');
}

/// The last dimension, broken into lines.
fn write_row(out: &mut String, n: usize, cells: &mut dyn Iterator<Item = String>, indent: usize, summarized: bool) {
    let mut column = indent;
    let mut put = |out: &mut String, cell: &str, first: bool| {
        if !first && column + 1 + cell.len() > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !first {
            out.push(' ');
            column += 1;
        }
        out.push_str(cell);
        column += cell.len();
    };
    for (k, i) in shown_of(n, summarized).into_iter().enumerate() {
        if summarized && n > 2 * EDGE && i == n - EDGE {
            put(out, "...", false);
        }
        put(out, &cells.next().expect("a cell for each place"), k == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    fn shown(shape: &[usize], values: &[f64]) -> String {
        HostTensor::from_f64(DType::F64, shape, values).to_string()
    }

    /// What NumPy 2 prints.
    #[test]
    fn tensors_print_as_in_numpy() {
        assert_eq!(shown(&[3], &[1.0, 2.5, 3.0]), "[1.  2.5 3. ]");
        assert_eq!(HostTensor::i32(&[2, 2], &[1, 2, 30, 4]).to_string(), "[[ 1  2]\n [30  4]]");
        assert_eq!(shown(&[], &[3.5]), "3.5");
        assert_eq!(shown(&[], &[3.0]), "3.0");
        assert_eq!(HostTensor::from_i64(DType::Bool, &[2], &[1, 0]).to_string(), "[ True False]");
        assert_eq!(shown(&[3], &[1e-8, 1.0, 1e8]), "[1.e-08 1.e+00 1.e+08]");
        assert_eq!(shown(&[2], &[123456.0, 0.001]), "[1.23456e+05 1.00000e-03]");
        assert_eq!(shown(&[0], &[]), "[]");
        assert_eq!(shown(&[0, 3], &[]), "[]");
        assert_eq!(shown(&[2, 2, 2], &[1., 2., 3., 4., 5., 6., 7., 8.]), "[[[1. 2.]\n  [3. 4.]]\n\n [[5. 6.]\n  [7. 8.]]]");
        assert_eq!(shown(&[3], &[f64::NAN, 1.5, f64::NEG_INFINITY]), "[ nan  1.5 -inf]");
        assert_eq!(HostTensor::f32(&[2], &[0.1, 0.123_456_79]).to_string(), "[0.1        0.12345679]");
        let half = HostTensor::from_f64(DType::F16, &[4], &[0.1, 1.0 / 3.0, 2.0, f64::NAN]);
        assert_eq!(half.to_string(), "[0.1    0.3333 2.        nan]");
        assert_eq!(shown(&[2], &[-1.0, 10.25]), "[-1.   10.25]");
        assert_eq!(shown(&[2], &[1.0 / 3.0, 0.5]), "[0.33333333 0.5       ]");
        assert_eq!(format!("{:.2}", HostTensor::f32(&[3], &[1.0 / 3.0, 0.5, 2.0])), "[0.33 0.5  2.  ]");
    }

    #[test]
    fn large_tensors_are_summarized_and_long_rows_broken() {
        let many: Vec<i32> = (0..1001).collect();
        assert_eq!(HostTensor::i32(&[1001], &many).to_string(), "[   0    1    2 ...  998  999 1000]");
        let rows = HostTensor::i32(&[7, 150], &(0..1050).collect::<Vec<_>>()).to_string();
        let lines: Vec<&str> = rows.lines().collect();
        assert_eq!((lines[0], lines[3], lines[6]), ("[[   0    1    2 ...  147  148  149]", " ...", " [ 900  901  902 ... 1047 1048 1049]]"));
        let line = HostTensor::i32(&[40], &(100..140).collect::<Vec<_>>()).to_string();
        assert_eq!(line.lines().map(str::len).collect::<Vec<_>>(), [72, 72, 17]);
    }

    #[test]
    fn debug_is_one_line() {
        assert_eq!(format!("{:?}", HostTensor::f32(&[2, 4], &[0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])), "f32[2, 4] [0.5, 1., 2., 3., 4., 5., ...]");
        assert_eq!(format!("{:?}", HostTensor::i32(&[], &[7])), "i32[] [7]");
        assert!(format!("{:?}", HostTensor::f32(&[2], &[1.0])).starts_with("<f32[2] has 2 elements, and 1 are given"));
    }
}
