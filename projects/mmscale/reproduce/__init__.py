"""Every table of the papers as data, and what runs them: complexity, training, report."""
