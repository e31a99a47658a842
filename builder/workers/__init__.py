"""The four roles of the daemon: scheduler, builder, uploader, janitor."""
