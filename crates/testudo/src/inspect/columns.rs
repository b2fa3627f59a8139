//! Aligned columns: text to the left, numbers to the right, two blanks between.
//!
//! Every cell is one word and every row has all cells (`-` for none), so that `awk` can count them.

/// A column's title and the side its cells stand on.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    const fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

/// The rows under their titles. Every row has as many cells as there are columns.
pub fn render<const N: usize>(columns: [Column; N], rows: &[[String; N]]) -> String {
    let titles = columns.map(|column| column.title().to_owned());
    let mut widths = [0; N];
    for row in std::iter::once(&titles).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let start = text.len();
        for ((column, width), cell) in columns.iter().zip(widths).zip(row) {
            if text.len() > start {
                text.push_str("  ");
            }
            text.push_str(&match column {
                Column::Left(_) => format!("{cell:<width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            });
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A cell that may have nothing to say.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let columns = [Column::Left("NAME"), Column::Right("N"), Column::Left("STATE")];
        let rows = [
            ["n1".to_owned(), "5".to_owned(), "ok".to_owned()],
            ["router".to_owned(), "1234".to_owned(), or_dash::<u8>(None)],
        ];
        let text = "NAME       N  STATE\nn1         5  ok\nrouter  1234  -\n";
        assert_eq!(render(columns, &rows), text);
        assert_eq!(render(columns, &[]), "NAME  N  STATE\n");
    }
}
