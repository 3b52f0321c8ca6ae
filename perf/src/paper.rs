//! The figures that the paper's plots are drawn from, as rows of [`Kind::Paper`](crate::row::Kind::Paper).
