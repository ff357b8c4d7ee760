"""The heavy half of mreg: recipes that train and run nets. Never imports `registry`."""
