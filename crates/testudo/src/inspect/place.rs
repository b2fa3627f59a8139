//! Which node is asked: the one named, else the only one of this machine.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::config::node::CONTROL_DIRECTORY;

/// The environment variable that names a control socket.
const VARIABLE: &str = "TESTUDO_SOCKET";

/// Why no node could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No node has a socket in the usual place.
    #[error(
        "{} has no control socket; expected a running `testudo node`, or --socket PATH",
        directory.display()
    )]
    None {
        /// The usual place.
        directory: PathBuf,
    },
    /// Several nodes have.
    #[error(
        "{} has {} control sockets, {}; expected --socket with one of them",
        directory.display(), names.len(), names.join(", ")
    )]
    Several {
        /// The usual place.
        directory: PathBuf,
        /// What is there.
        names: Vec<String>,
    },
    /// The usual place can't be looked at.
    #[error(
        "can't look for control sockets in {}: {source}; expected root, or --socket PATH",
        directory.display()
    )]
    Unreadable {
        /// The usual place.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The socket that is named by option, else by environment, else the only one in the usual place.
pub fn find(option: Option<&Path>) -> Result<PathBuf, PlaceError> {
    if let Some(path) = option {
        return Ok(path.to_owned());
    }
    match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => only_one(Path::new(CONTROL_DIRECTORY)),
    }
}

fn only_one(directory: &Path) -> Result<PathBuf, PlaceError> {
    let mut sockets = match sockets(directory) {
        Ok(sockets) => sockets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(PlaceError::Unreadable { directory: directory.to_owned(), source });
        }
    };
    let directory = directory.to_owned();
    match sockets.len() {
        0 => Err(PlaceError::None { directory }),
        1 => Ok(sockets.remove(0)),
        _ => {
            let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
            Err(PlaceError::Several { directory, names: sockets.iter().filter_map(name).collect() })
        }
    }
}

fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "sock") && entry.file_type()?.is_socket()
        {
            sockets.push(path);
        }
    }
    sockets.sort();
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_only_socket_is_the_one() {
        let directory = env::temp_dir().join(format!("testudo-place-{}", std::process::id()));
        let said = |directory: &Path| only_one(directory).unwrap_err().to_string();
        let none = format!(
            "{} has no control socket; expected a running `testudo node`, or --socket PATH",
            directory.display()
        );
        assert_eq!(said(&directory), none);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("n0.sock"), "").unwrap();
        let _other = UnixListener::bind(directory.join("other")).unwrap();
        assert_eq!(said(&directory), none);
        let _second = UnixListener::bind(directory.join("n2.sock")).unwrap();
        assert_eq!(only_one(&directory).unwrap(), directory.join("n2.sock"));
        let _first = UnixListener::bind(directory.join("n1.sock")).unwrap();
        let several = format!(
            "{} has 2 control sockets, n1.sock, n2.sock; expected --socket with one of them",
            directory.display()
        );
        assert_eq!(said(&directory), several);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_socket_that_is_named_is_taken() {
        assert_eq!(find(Some(Path::new("/x"))).unwrap(), Path::new("/x"));
    }
}
