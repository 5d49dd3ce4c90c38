//! What `tercet-chaos` can be told to do.

pub(crate) mod check;
pub(crate) mod child;
pub(crate) mod run;
