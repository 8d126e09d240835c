//! HTTP/2 with frames made by hand, so that they can be wrong.

mod floods;
pub mod frames;
mod requests;
