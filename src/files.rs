//! Everything that is written to disk goes through here: a file is there as a whole or not at all, and what is no regular file is
//! never replaced by one.
//!
//! * A regular file is written aside in the same folder, brought to the disk, and renamed. Links are followed: the file at their
//!   end is replaced, the links stay. Permissions stay, too.
//! * A device, a pipe or another special file is written in place; a file that a process has open (`/dev/stdout`) is appended to.
//! * A file aside belongs to who holds its lock. One that nobody holds was left by a process that ended, and is removed.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Links that lead to links beyond this are a circle.
const MAX_LINKS: usize = 40;
/// How files aside are named: the process and a counter stand between.
const ASIDE: (&str, &str) = (".inductor-", ".tmp");

/// Writes a file.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    try_write(path, bytes.as_ref()).map_err(|e| Error::file(path, format!("cannot write: {e}")))
}

/// [`write()`], with the system's error.
pub fn try_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(file) if !file.metadata()?.is_file() => in_place(file, bytes),
        Ok(_) if is_stream(path) => in_place(OpenOptions::new().append(true).open(path)?, bytes),
        Ok(file) => replace(&path.canonicalize()?, Some(file.metadata()?.permissions()), bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => replace(&end_of_links(path)?, None, bytes),
        Err(e) => Err(e),
    }
}

/// Whether two paths lead to one existing file, however they are spelled.
pub fn is_same(a: &Path, b: &Path) -> bool {
    match (identity(a), identity(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Whether the path names an open file of a process, which is written to even where it is a regular file.
fn is_stream(path: &Path) -> bool {
    cfg!(unix) && ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"].iter().any(|place| path.starts_with(place))
}

fn in_place(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.flush()
}

/// Where a file is made whose path is a link to nothing yet.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { return Ok(path) };
        path = folder_of(&path).join(next);
    }
    Err(io::Error::other("its links go in a circle"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, permissions: Option<Permissions>, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    remove_abandoned(folder);
    let (aside, mut file) = create_aside(folder)?;
    let written = (|| {
        file.write_all(bytes)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        // Before the rename: a name must not be on the disk earlier than what it names.
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    if written.is_err() {
        // The error at hand says more than one of cleaning up.
        let _ = fs::remove_file(&aside);
    }
    written?;
    // The name itself; not every file system can do that for a folder.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A new file of a name that nobody has, locked for as long as it is open.
fn create_aside(folder: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}{}-{n}{}", ASIDE.0, std::process::id(), ASIDE.1));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                // Without locks, such as on some network file systems, nothing is ever taken for abandoned either.
                let _ = file.try_lock();
                return Ok((path, file));
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes files aside whose writer ended before it renamed them. A folder that cannot be listed keeps them.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()).filter(|p| is_aside(p)) {
        if OpenOptions::new().write(true).open(&path).is_ok_and(|file| is_old(&file) && file.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_aside(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.starts_with(ASIDE.0) && name.ends_with(ASIDE.1) && path.is_file()
}

/// Between the creation of a file and its lock there is a moment, which is over after seconds.
fn is_old(file: &File) -> bool {
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age.as_secs() >= 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, "first, and long").unwrap();
        write(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(names(folder.path()), ["a.txt"]);
        assert!(write(folder.path(), "x").unwrap_err().to_string().contains("cannot write"));
        assert!(write(folder.path().join("none/a.txt"), "x").is_err());
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("inside")).unwrap();
        symlink("inside/b.txt", at("second")).unwrap();
        symlink("second", at("first")).unwrap();
        for text in ["made", "replaced"] {
            write(at("first"), text).unwrap();
            assert_eq!(fs::read_to_string(at("inside/b.txt")).unwrap(), text);
            fs::set_permissions(at("inside/b.txt"), Permissions::from_mode(0o640)).unwrap();
        }
        assert_eq!(fs::metadata(at("inside/b.txt")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(at("first").is_symlink() && at("second").is_symlink());
        symlink("circle", at("circle")).unwrap();
        assert!(write(at("circle"), "x").is_err() && at("circle").is_symlink());
        assert!(is_same(&at("first"), &at("inside/../inside/b.txt")) && !is_same(&at("first"), &at("inside")));
    }

    #[cfg(unix)]
    #[test]
    fn special_files_are_written_in_place() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (from, reader) = (pipe.clone(), std::thread::Builder::new());
        let reader = reader.spawn(move || fs::read_to_string(from).unwrap()).unwrap();
        write(&pipe, "through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), "through the pipe");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        write("/dev/null", "nothing").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn files_that_nobody_writes_any_more_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (abandoned, held) = (folder.path().join(".inductor-1-0.tmp"), folder.path().join(".inductor-1-1.tmp"));
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        let make = |path: &Path| {
            let file = File::create(path).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        drop(make(&abandoned));
        let file = make(&held);
        file.lock().unwrap();
        write(folder.path().join("a.txt"), "x").unwrap();
        assert_eq!(names(folder.path()), [".inductor-1-1.tmp", "a.txt"]);
    }
}
