//! Tables, properties and a model runtime for the planner.
