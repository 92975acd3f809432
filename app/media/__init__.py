"""Pictures, videos and sounds as files: what they may be, and how those behind URLs come here."""
