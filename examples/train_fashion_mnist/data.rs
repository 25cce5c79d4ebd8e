//! Fashion-MNIST: four files in the IDX format, packed with gzip or not.

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use inductor::HostTensor;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where Debian's package puts the files.
pub const FOLDER: &str = "/usr/share/datasets/fashion-mnist";
/// Width and height of an image.
pub const SIDE: usize = 28;
/// Names of the classes.
pub const CLASSES: [&str; 10] = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

const HOW: &str = "on Debian and Ubuntu, `apt-get install dataset-fashion-mnist` brings the data set; elsewhere, put its four files \
    (train-images-idx3-ubyte.gz and so on, from https://github.com/zalandoresearch/fashion-mnist) into a folder and name it with --data";
/// Files are refused beyond this many bytes unpacked.
const MAX_BYTES: u64 = 1 << 30;
/// Mean and deviation of the brightness of the training images.
const BRIGHTNESS: (f32, f32) = (0.2860, 0.3530);

/// Images with their classes.
pub struct Split {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Split {
    /// Reads `train` or `t10k` from a folder.
    pub fn read(folder: &Path, name: &str) -> Result<Split> {
        let (shape, pixels) = read_idx(folder, &format!("{name}-images-idx3-ubyte"))?;
        let (count, labels) = read_idx(folder, &format!("{name}-labels-idx1-ubyte"))?;
        ensure!(shape.len() == 3 && shape[1..] == [SIDE, SIDE], "the images of {name} are {shape:?}, expected [n, {SIDE}, {SIDE}]");
        ensure!(count == shape[..1] && count[0] > 0, "{name} has {} images and labels of shape {count:?}", shape[0]);
        ensure!(labels.iter().all(|&l| (l as usize) < CLASSES.len()), "a label of {name} is none of the {} classes", CLASSES.len());
        Ok(Split { pixels, labels })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The class of an image.
    pub fn label(&self, at: usize) -> usize {
        self.labels[at] as usize
    }

    /// Images `[n, 1, 28, 28]` of mean 0 and deviation 1, and their labels.
    pub fn batch(&self, chosen: &[usize]) -> [HostTensor; 2] {
        let (mean, deviation) = BRIGHTNESS;
        let size = SIDE * SIDE;
        let pixels = chosen.iter().flat_map(|&i| &self.pixels[i * size..(i + 1) * size]);
        let pixels: Vec<f32> = pixels.map(|&p| (p as f32 / 255.0 - mean) / deviation).collect();
        let labels: Vec<i32> = chosen.iter().map(|&i| self.labels[i] as i32).collect();
        let images = HostTensor::f32(&[chosen.len(), 1, SIDE, SIDE], &pixels);
        [images, HostTensor::i32(&[chosen.len()], &labels)]
    }
}

/// Shape and bytes of an IDX file of unsigned bytes, packed as `NAME.gz` or not.
fn read_idx(folder: &Path, name: &str) -> Result<(Vec<usize>, Vec<u8>)> {
    let (plain, packed) = (folder.join(name), folder.join(format!("{name}.gz")));
    let path = if plain.exists() { &plain } else { &packed };
    ensure!(path.exists(), "there is no {name}.gz in {}; {HOW}", folder.display());
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut bytes = vec![];
    let read =
        if path == &plain { file.take(MAX_BYTES).read_to_end(&mut bytes) } else { GzDecoder::new(file).take(MAX_BYTES).read_to_end(&mut bytes) };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    parse_idx(&bytes).with_context(|| format!("{} is no sound IDX file", path.display()))
}

/// Two zeros, the number 8 for unsigned bytes, the rank; then each size as a big-endian number of four bytes; then the data.
fn parse_idx(bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
    ensure!(bytes.len() >= 4 && bytes[..3] == [0, 0, 8], "it does not start with the mark of unsigned bytes");
    let rank = bytes[3] as usize;
    let sizes = bytes.get(4..4 + 4 * rank).context("it ends within its sizes")?;
    let shape: Vec<usize> = sizes.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]) as usize).collect();
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).context("its sizes overflow")?;
    let data = &bytes[4 + 4 * rank..];
    ensure!(data.len() == count, "it has {} bytes of data, its sizes {shape:?} ask for {count}", data.len());
    Ok((shape, data.to_vec()))
}
