"""The commands of `naturaltone`, one file each: its arguments, and what it does with them. Imports its work when it runs."""
