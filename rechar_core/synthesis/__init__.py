"""Element prompts, reference images, the passes of the pipeline, lettering. Independent of any model library."""
