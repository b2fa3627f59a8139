//! Files that are there whole or not at all, and keys that nobody else reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The largest file of certificates or of a key that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The permissions of a key, and of all else.
pub const PRIVATE: u32 = 0o600;
pub const PUBLIC: u32 = 0o644;

/// Reads a file of certificates or of a key.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // What is no file may keep a reader waiting for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// Why others could use a key, if they could.
pub fn exposed(path: &Path) -> io::Result<Option<String>> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    Ok((mode & 0o077 != 0)
        .then(|| format!("its mode is {mode:04o}, so others than its owner get at it")))
}

/// Puts a file in the place of what is there; a reader sees the one or the other.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    // One that was left by a command that was interrupted may have been opened by others.
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_readable_by_others() {
        let directory = std::env::temp_dir().join(format!("testudo-files-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (key, certificate) = (directory.join("k"), directory.join("c"));
        for text in ["one", "two"] {
            replace(&key, text, PRIVATE).unwrap();
            replace(&certificate, text, PUBLIC).unwrap();
            assert_eq!(read(&key).unwrap(), text.as_bytes());
        }
        assert_eq!(exposed(&key).unwrap(), None);
        assert!(exposed(&certificate).unwrap().unwrap().contains("0644"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        assert!(read(&directory).unwrap_err().to_string().contains("no file"));
        File::create(directory.join("large")).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(read(&directory.join("large")).unwrap_err().to_string().contains("more than"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
