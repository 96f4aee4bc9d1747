"""The console: a process of its own in which a person looks at the site, works its line and edits its configuration.

It is a shell around the command line: `tree` says what may be typed, `shell` reads it and runs the verb of the command
line that it stands for, so that the console has no view and no verb of its own. Whatever a verb prints passes `safe` on
its way to the terminal.
"""
