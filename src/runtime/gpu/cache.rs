//! What is kept on disk, driver blobs and measurements: keyed by adapter and content, safe to delete, safe under concurrent
//! processes.

use super::super::counters::{Counted, count};
use std::path::{Path, PathBuf};

/// A file of the cache. Its first 32 bytes are the hash of the rest: a file that was cut or changed is a miss, because
/// drivers trust what they are given.
pub(in super::super) struct BlobFile {
    path: PathBuf,
}

impl BlobFile {
    /// The file for `content` (a hash of all shaders) on the adapter of that key.
    pub fn new(folder: &Path, adapter_key: &str, content: &blake3::Hash) -> BlobFile {
        BlobFile::at(folder.join("pipelines").join(format!("{adapter_key}-{}.bin", &content.to_hex()[..32])))
    }

    /// The file of that path.
    pub fn at(path: PathBuf) -> BlobFile {
        BlobFile { path }
    }

    /// What was stored, unless it is missing or damaged.
    pub fn load(&self) -> Option<Vec<u8>> {
        let bytes = std::fs::read(&self.path).ok()?;
        let (hash, blob) = bytes.split_at_checked(32)?;
        if blake3::hash(blob).as_bytes() != hash {
            tracing::debug!(path = %self.path.display(), "damaged cache entry ignored");
            return None;
        }
        Some(blob.to_vec())
    }

    /// Stores `blob` by writing aside and renaming, so that a reader sees all of it or nothing. Failing to store is not an
    /// error of the program: the next start compiles again.
    pub fn store(&self, blob: &[u8]) {
        if let Err(error) = self.try_store(blob) {
            tracing::debug!(path = %self.path.display(), %error, "cache entry not written");
        }
    }

    /// Removes the file, if it is there.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.path.display(), %error, "cache entry not removed");
        }
    }

    fn try_store(&self, blob: &[u8]) -> std::io::Result<()> {
        let folder = self.path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
        if !folder.exists() {
            std::fs::create_dir_all(folder)?;
            count(Counted::CacheFolder);
        }
        crate::files::try_write(&self.path, &[blake3::hash(blob).as_bytes(), blob].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let file = BlobFile::new(folder.path(), "adapter", &blake3::hash(b"shaders"));
        assert_eq!(file.load(), None);
        file.store(b"driver data");
        assert_eq!(file.load().as_deref(), Some(&b"driver data"[..]));
        let mut bytes = std::fs::read(&file.path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&file.path, &bytes).unwrap();
        assert_eq!(file.load(), None);
        std::fs::write(&file.path, b"short").unwrap();
        assert_eq!(file.load(), None);
        file.remove();
        assert!(!file.path.exists());
        file.remove();
    }
}
