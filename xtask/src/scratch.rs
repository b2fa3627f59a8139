//! A directory for one test, which is gone when the test ends, also when it fails.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// An empty directory that is removed on drop.
pub struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Makes a directory that no other test of this process or of another one has.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("testudo-xtask-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, whose directories are made too.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // A directory that stays behind harms nobody; a panic during a panic would hide the failure.
        let _ = fs::remove_dir_all(&self.0);
    }
}
