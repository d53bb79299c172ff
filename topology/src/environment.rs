//! Environment variables in the text of a topology file.

/// A text after expansion, and how its bytes map back to the text before.
pub(crate) struct Expanded {
    pub(crate) original: String,
    pub(crate) text: String,
    /// Replaced stretches in order.
    pub(crate) replaced: Vec<Replaced>,
}

/// A stretch of the expanded text that stands for something else in the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Bytes in the original.
    pub(crate) from: (usize, usize),
    /// Bytes in the expanded text.
    pub(crate) to: (usize, usize),
}

impl Expanded {
    /// The byte of the original that became byte `offset` of the expanded text; the start of the replaced stretch for
    /// what a variable brought.
    pub(crate) fn original_offset(&self, offset: usize) -> usize {
        let index = self.replaced.partition_point(|r| r.to.0 <= offset);
        let Some(last) = index.checked_sub(1).and_then(|i| self.replaced.get(i)) else { return offset };
        if offset < last.to.1 { last.from.0 } else { last.from.1 + (offset - last.to.1) }
    }
}
