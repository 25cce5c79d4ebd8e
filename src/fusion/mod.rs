//! May these nests be one kernel, and what does it cost.
