//! Figures printed by tests: claims in the documentation refer to these lines.

use std::fmt::Display;

/// Prints a measurement.
pub fn figure(name: &str, value: impl Display) {
    println!("figure: {name}: {value}");
}

/// Formats a number of bytes for humans.
pub fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} KB", bytes / 1_000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}
