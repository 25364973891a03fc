"""What is wrong with a study as a whole: audits that compare its runs, and what the runs' own audits found."""
