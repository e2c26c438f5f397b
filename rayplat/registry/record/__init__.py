"""The registry's record in SQL: tables, transactions, and one module of operations for each noun."""
