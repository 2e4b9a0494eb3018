//! Files of a folder, served over HTTP.

mod path;
