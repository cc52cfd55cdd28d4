"""Read results from records: tables, statistics, leaderboards, reports."""
