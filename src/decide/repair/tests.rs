//! Each rule a test, and what holds for every story.

mod breaker;
mod cast;
mod disposition;
mod due;
mod jobs;
mod scene;
mod stories;
mod ungate;
mod view;
mod world;
