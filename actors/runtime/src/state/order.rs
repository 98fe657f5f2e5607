//! Which list of assignments a runtime acts by: the newest it knows of.
//!
//! Lists are ordered by the position of desired state they were read at. Each placement bears a
//! generation that rises with every change of place, so acting by the newest list is acting for
//! the newest generation.

use weft_protocol::Assignment;

/// What to do with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Act by it.
    Take,
    /// A newer one is known.
    Older,
    /// Another one was said for the same position.
    Contradicts,
}

/// Judges a list of position `index`: `known` is the newest position that was acted upon, also by
/// earlier daemons; `taken` is what this daemon last acted upon.
pub(crate) fn judge(
    known: u64,
    taken: Option<&(u64, Vec<Assignment>)>,
    index: u64,
    list: &[Assignment],
) -> Verdict {
    if index < known {
        return Verdict::Older;
    }
    match taken {
        Some((at, said)) if *at == index && said != list => Verdict::Contradicts,
        _ => Verdict::Take,
    }
}
