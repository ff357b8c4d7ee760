"""Rules, one module a subject: small functions that yield findings, all listed in one place."""
