"""Great Expectations: suites, their findings, Data Docs. Used by the stages that check data."""
