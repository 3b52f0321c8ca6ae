//! The page: plots, tables, claims.
//!
//! | room | what |
//! |---|---|
//! | [`build`] | from rows to pictures' data and words: what the plots' files call |
//! | [`drawing`] | data of pictures, before anything is drawn |
//! | [`picture`] | drawings as SVG and PNG |
//! | [`readable`] | figures as people read them |
//! | [`page`] | `index.html` |

pub mod build;
pub mod drawing;
pub mod page;
pub mod picture;
pub mod readable;
