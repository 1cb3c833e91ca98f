//! The release side: from a plugin's source to a signed package.
//!
//! The modules stand in the order of the flow, and each step takes the one before by value:
//!
//! ```text
//! source       compile    release   stamp     manifest   sign     archive
//! SourceTree → Compiled → Release → Stamped → Unsigned → Signed → PackageFile
//!                         one for   one for each customer         publish
//!                         all                                   → Published
//! ```
//!
//! [`conformance`] checks what a plugin does, [`automate`] all of it as users run it.
//!
//! [`serve`] answers the plugin API, out of the database of [`customers`], with tokens signed by [`token`].
//!
//! [`publish`] puts packages into a [`store`] and names them in the index of their customer.
//!
//! [`plan`] decides everything before anything is touched. Only [`sign`] reads release keys, only
//! [`compile`] and the keeper of [`automate`] start processes, only [`environment`] reads the environment.

#![warn(missing_docs)]

pub mod archive;
pub mod automate;
pub mod commands;
pub mod compile;
pub mod conformance;
pub mod customers;
pub mod environment;
pub mod manifest;
pub mod plan;
pub mod publish;
pub mod release;
pub mod restamp;
pub mod serve;
pub mod sign;
pub mod source;
pub mod stamp;
pub mod store;
pub mod token;
