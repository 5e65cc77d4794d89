"""The Discord dialect (wire page: discord)."""
