"""Pictures of features: colors, heat maps, sheets, videos."""
