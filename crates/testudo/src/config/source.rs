//! Files that operators write, read as text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{ConfigError, Fault};

/// Reads a file of at most so many bytes, which are UTF-8. `what` is what it was to be, and `locate` says where in
/// the file a fault is.
pub fn read(
    file: &Path,
    most: u64,
    what: &str,
    locate: impl Fn(Fault, &Path, &str) -> ConfigError,
) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        let seen = format!("more than {most} bytes");
        let fault = Fault { span: 0..0, seen, expected: what.to_owned() };
        return Err(locate(fault, file, ""));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (start, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let seen = format!("the byte 0x{:02x}", bytes[start]);
        let fault = Fault { span: start..start, seen, expected: "UTF-8".to_owned() };
        locate(fault, file, &String::from_utf8_lossy(bytes))
    })
}
