//! Tables for statuses and their guards.
