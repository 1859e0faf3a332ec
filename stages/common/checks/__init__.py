"""Great Expectations: suites, what a suite found, Data Docs. Entered by the stages that check data."""
