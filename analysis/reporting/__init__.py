"""What people read: the report of a study, and a published table beside what was measured here."""
