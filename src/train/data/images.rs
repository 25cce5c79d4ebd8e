//! Pictures in folders.

use super::dataset::{Dataset, Source};
use crate::error::{Error, Result};
use crate::runtime::Inputs;
use crate::threads;
use crate::types::HostTensor;
use image::imageops::{FilterType, crop_imm, resize};
use image::{DynamicImage, RgbImage};
use std::path::{Path, PathBuf};

/// Pictures in folders, one folder for each class, as torchvision's `ImageFolder` reads them: PNG and JPEG files, decoded on threads when
/// their batch is asked for, never all at once.
///
/// A picture is made as small or as large as it takes to cover the wanted size (by a triangle filter over all pixels, torchvision's
/// `antialias`), what stands out on two sides is cut off evenly, and its bytes become numbers from 0 to 1: `f32[n, 3, height, width]`
/// under the name `x`, with the number of the class, `i32[n]`, under `y`. Transparency is left out, and so is the orientation that cameras
/// note.
///
/// ```no_run
/// use inductor::train::data::ImageFolder;
/// # fn main() -> inductor::Result<()> {
/// let pictures = ImageFolder::open("flowers/train")?.size(224, 224).normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
/// println!("{} pictures of {:?}", pictures.len(), pictures.classes());
/// let batches = pictures.dataset().loader(32).shuffle(7);
/// # let _ = batches;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ImageFolder {
    classes: Vec<String>,
    /// Each picture with the number of its class.
    files: Vec<(PathBuf, usize)>,
    height: u32,
    width: u32,
    mean: [f32; 3],
    std: [f32; 3],
    names: [String; 2],
}

/// Extensions of what can be decoded.
const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

impl ImageFolder {
    /// The pictures below a folder. Classes are the folders in it, in alphabetical order, and have a picture each at least; folders in
    /// those are looked through as well. Other files are passed over.
    pub fn open(path: impl AsRef<Path>) -> Result<ImageFolder> {
        let path = path.as_ref();
        let (mut classes, mut files) = (vec![], vec![]);
        for folder in entries(path)?.into_iter().filter(|p| p.is_dir()) {
            let before = files.len();
            collect(&folder, classes.len(), &mut files)?;
            if files.len() == before {
                return Err(Error::file(&folder, "a class without a picture"));
            }
            classes.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if classes.is_empty() {
            return Err(Error::file(path, "there is no folder in it, which would be a class"));
        }
        let names = ["x".into(), "y".into()];
        Ok(ImageFolder { classes, files, height: 224, width: 224, mean: [0.0; 3], std: [1.0; 3], names })
    }

    /// Another size than 224 x 224.
    pub fn size(mut self, height: u32, width: u32) -> ImageFolder {
        (self.height, self.width) = (height.max(1), width.max(1));
        self
    }

    /// Subtracted from each color, and what it is divided by then.
    pub fn normalize(mut self, mean: [f32; 3], std: [f32; 3]) -> ImageFolder {
        (self.mean, self.std) = (mean, std);
        self
    }

    /// Names of the pictures and of their classes among a program's inputs.
    pub fn names(mut self, pictures: &str, classes: &str) -> ImageFolder {
        self.names = [pictures.into(), classes.into()];
        self
    }

    /// The classes, by their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// As examples, which can be split, shuffled and loaded in batches.
    pub fn dataset(self) -> Dataset {
        let n = self.len();
        Dataset::of_source(Source::Images(self), n)
    }

    /// Those pictures, decoded.
    pub(super) fn rows(&self, rows: &[usize]) -> Result<Inputs> {
        let pictures = threads::collect(rows.len(), |k| self.read(&self.files[rows[k]].0)).into_iter().collect::<Result<Vec<_>>>()?;
        let classes: Vec<i32> = rows.iter().map(|&row| self.files[row].1 as i32).collect();
        let shape = [rows.len(), 3, self.height as usize, self.width as usize];
        let [x, y] = self.names.clone();
        Ok(Inputs::Named(vec![(x, HostTensor::f32(&shape, &pictures.concat())), (y, HostTensor::i32(&[rows.len()], &classes))]))
    }

    /// The numbers of a picture, color by color.
    fn read(&self, path: &Path) -> Result<Vec<f32>> {
        let picture = self.fit(&decode(path)?.to_rgb8());
        let plane = |c: usize| picture.pixels().map(move |p| (p.0[c] as f32 / 255.0 - self.mean[c]) / self.std[c]);
        Ok((0..3).flat_map(plane).collect())
    }

    /// The picture in the wanted size.
    fn fit(&self, picture: &RgbImage) -> RgbImage {
        let (width, height) = picture.dimensions();
        let scale = (self.width as f64 / width as f64).max(self.height as f64 / height as f64);
        let scaled = |size: u32, least: u32| ((size as f64 * scale).round() as u32).max(least);
        let (wide, high) = (scaled(width, self.width), scaled(height, self.height));
        let whole = if (wide, high) == (width, height) { picture.clone() } else { resize(picture, wide, high, FilterType::Triangle) };
        crop_imm(&whole, (wide - self.width) / 2, (high - self.height) / 2, self.width, self.height).to_image()
    }
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let reader = image::io::Reader::open(path).and_then(|r| r.with_guessed_format()).map_err(|e| Error::file(path, e))?;
    reader.decode().map_err(|e| Error::file(path, e))
}

/// What is in a folder, in alphabetical order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = std::fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    let mut paths: Vec<PathBuf> = listed.map_err(|e| Error::file(folder, e))?;
    paths.sort();
    Ok(paths)
}

/// Adds the pictures below a folder.
fn collect(folder: &Path, class: usize, into: &mut Vec<(PathBuf, usize)>) -> Result<()> {
    for path in entries(folder)? {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() {
            collect(&path, class, into)?;
        } else if EXTENSIONS.contains(&extension.as_str()) {
            into.push((path, class));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// A folder of two classes with pictures of one color each: `cat/a.png`, `cat/more/b.jpg` and `dog/c.PNG`.
    fn pictures() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, width: u32, height: u32, color: [u8; 3]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_pixel(width, height, Rgb(color)).save(path).unwrap();
        };
        save("cat/a.png", 4, 8, [255, 0, 51]);
        save("cat/more/b.jpg", 16, 16, [0, 0, 0]);
        save("dog/c.PNG", 2, 2, [0, 255, 102]);
        std::fs::write(folder.path().join("cat/notes.txt"), "none").unwrap();
        folder
    }

    fn read(data: &Dataset, rows: &[usize]) -> (HostTensor, Vec<i64>) {
        match data.rows(rows).unwrap() {
            Inputs::Named(mut named) => {
                let classes = named.remove(1).1.to_i64();
                (named.remove(0).1, classes)
            }
            Inputs::Positional(_) => panic!("they have names"),
        }
    }

    #[test]
    fn folders_are_classes_and_pictures_fit() {
        let folder = pictures();
        let found = ImageFolder::open(folder.path()).unwrap().size(4, 2).normalize([0.0, 0.0, 0.2], [1.0, 0.5, 1.0]);
        assert_eq!((found.classes(), found.len()), (&["cat".to_string(), "dog".into()][..], 3));
        let (x, y) = read(&found.dataset(), &[2, 0]);
        assert_eq!((x.shape(), &y[..]), (&[2, 3, 4, 2][..], &[1, 0][..]));
        let colors: Vec<f64> = x.to_f64().chunks(8).map(|plane| plane[5]).collect();
        let expected = [0.0, 2.0, 0.2, 1.0, 0.0, 0.0];
        assert!(colors.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{colors:?}");
    }

    /// The sides that stand out are cut evenly.
    #[test]
    fn the_middle_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("stripes")).unwrap();
        let stripes = RgbImage::from_fn(6, 2, |x, _| Rgb([40 * x as u8; 3]));
        stripes.save(folder.path().join("stripes/s.png")).unwrap();
        let (x, _) = read(&ImageFolder::open(folder.path()).unwrap().size(2, 2).dataset(), &[0]);
        let row: Vec<u32> = x.to_f64()[..2].iter().map(|v| (v * 255.0).round() as u32).collect();
        assert_eq!(row, [80, 120]);
    }

    #[test]
    fn batches_follow_the_seed_and_mistakes_name_the_file() {
        let folder = pictures();
        let data = ImageFolder::open(folder.path()).unwrap().size(2, 2).names("picture", "class").dataset();
        let mut order = vec![];
        for batch in data.loader(1).shuffle(3).epoch(0) {
            let Inputs::Named(named) = batch.unwrap() else { panic!("they have names") };
            assert_eq!((named[0].0.as_str(), named[1].0.as_str()), ("picture", "class"));
            order.push(named[1].1.to_i64()[0]);
        }
        order.sort_unstable();
        assert_eq!(order, [0, 0, 1]);
        assert_eq!(data.split(2).unwrap().1.len(), 1);
        std::fs::write(folder.path().join("dog/broken.png"), "no picture").unwrap();
        let data = ImageFolder::open(folder.path()).unwrap().dataset();
        let error = data.rows(&[2]).unwrap_err().to_string();
        assert!(error.contains("broken.png"), "{error}");
        std::fs::create_dir(folder.path().join("empty")).unwrap();
        assert!(ImageFolder::open(folder.path()).unwrap_err().to_string().contains("a class without a picture"));
        assert!(ImageFolder::open(folder.path().join("dog")).unwrap_err().to_string().contains("there is no folder"));
    }
}
